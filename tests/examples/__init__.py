"""Examples run as a newcomer runs them: as commands, from the root of the repository."""
