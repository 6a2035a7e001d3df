from __future__ import annotations

import pytest

from arena_ray.ledger import Quarantine


@pytest.fixture
def book() -> Quarantine[str]:
    return Quarantine()


def lose(book: Quarantine[str], place: str, *suspects: int, elsewhere: bool = True) -> bool:
    return book.lost(place, suspects, elsewhere=elsewhere)


def test_three_losses_that_no_episode_explains_quarantine_a_place(book: Quarantine[str]) -> None:
    assert [lose(book, "gpu 0", episode) for episode in (1, 2, 3)] == [False, False, True]
    assert book.places == {"gpu 0"}


def test_an_episode_that_was_in_flight_every_time_explains_the_losses(book: Quarantine[str]) -> None:
    assert not any(
        [lose(book, "gpu 0", 1, 2), lose(book, "gpu 0", 1), lose(book, "gpu 0", 1, 7), lose(book, "gpu 0", 1)]
    )
    assert lose(book, "gpu 0", 8)


def test_a_completed_episode_clears_a_place(book: Quarantine[str]) -> None:
    lose(book, "gpu 0", 1)
    lose(book, "gpu 0", 2)
    book.completed("gpu 0")
    assert not lose(book, "gpu 0", 3)
    assert book.places == set()


def test_losses_elsewhere_do_not_count(book: Quarantine[str]) -> None:
    assert not any([lose(book, "gpu 0", 1), lose(book, "gpu 1", 2), lose(book, "gpu 0", 3), lose(book, "gpu 1", 4)])


def test_the_last_place_is_never_quarantined(book: Quarantine[str]) -> None:
    assert not any(lose(book, "gpu 0", episode, elsewhere=False) for episode in range(10))
    assert lose(book, "gpu 0", 10, elsewhere=True)


def test_a_place_is_quarantined_once(book: Quarantine[str]) -> None:
    verdicts = [lose(book, "gpu 0", episode) for episode in range(6)]
    assert verdicts == [False, False, True, False, False, False]
