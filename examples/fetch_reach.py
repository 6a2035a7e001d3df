"""FetchReach-v4 with two cameras in the observation, and a controller for it; see fetch_reach.yaml."""

from __future__ import annotations

from typing import Any

import gymnasium
import gymnasium_robotics
import mujoco
import numpy as np
import numpy.typing as npt

gymnasium.register_envs(gymnasium_robotics)

#: Cameras that look at the point above the table where the gripper starts: azimuth and elevation in degrees.
LOOK_AT_M = (1.3, 0.75, 0.55)
DISTANCE_M = 1.4
CAMERAS = {"front": (180.0, -20.0), "side": (90.0, -15.0)}


def make_env(
    max_episode_steps: int = 50, camera_size: int = 128, render_mode: str | None = None
) -> gymnasium.Env[Any, Any]:
    """Build the environment; called in the worker.

    Args:
        max_episode_steps: Steps after which an episode is truncated; FetchReach never terminates.
        camera_size: Height and width of a camera's frames, pixels.
        render_mode: Given when the viewport is recorded.
    """
    env = gymnasium.make("FetchReach-v4", max_episode_steps=max_episode_steps, render_mode=render_mode)
    return FetchCameras(env, camera_size)


class FetchCameras(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Adds the frames of `CAMERAS` to the observation and the distance to the goal to `info`.

    `camera_obs` is a dict of ``uint8[size, size, 3]`` frames by camera name: what `record_camera_video` records.

    Args:
        env: A Fetch environment.
        size: Height and width of the frames, pixels.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], size: int) -> None:
        super().__init__(env)
        frame = gymnasium.spaces.Box(0, 255, (size, size, 3), np.uint8)
        camera_obs = gymnasium.spaces.Dict(dict.fromkeys(CAMERAS, frame))
        assert isinstance(env.observation_space, gymnasium.spaces.Dict)
        self.observation_space = gymnasium.spaces.Dict({**env.observation_space.spaces, "camera_obs": camera_obs})
        self._size = size
        self._renderer: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset, and look."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._with_cameras(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step, and look."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        distance_m = float(np.linalg.norm(observation["desired_goal"] - observation["achieved_goal"]))
        return self._with_cameras(observation), reward, terminated, truncated, {**info, "distance": distance_m}

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        super().close()

    def _with_cameras(self, observation: dict[str, Any]) -> dict[str, Any]:
        simulation: Any = self.env.unwrapped
        if self._renderer is None:  # Not in __init__: an OpenGL context belongs to the process that steps.
            self._renderer = mujoco.Renderer(simulation.model, self._size, self._size)
        simulation._render_callback()  # Moves the red ball to the goal, as the environment's own render() does.
        return {**observation, "camera_obs": {name: self._look(simulation.data, name) for name in CAMERAS}}

    def _look(self, simulation_state: Any, name: str) -> npt.NDArray[np.uint8]:
        camera = mujoco.MjvCamera()
        camera.lookat[:] = LOOK_AT_M
        camera.distance = DISTANCE_M
        camera.azimuth, camera.elevation = CAMERAS[name]
        self._renderer.update_scene(simulation_state, camera)
        frame: npt.NDArray[np.uint8] = self._renderer.render()
        return frame


class ReachController:
    """Moves the gripper straight towards the goal. A policy is any object with `act`.

    Args:
        gain: Action per metre of distance; an action is in [-1, 1], where 1 moves 5 cm.
    """

    def __init__(self, gain: float) -> None:
        self._gain = gain

    def act(self, observations: dict[str, Any], slots: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return actions (dx, dy, dz, gripper), ``float32[k, 4]``, to the stacked observations of k slots."""
        to_goal_m = observations["desired_goal"] - observations["achieved_goal"]
        actions = np.zeros((len(slots), 4), dtype=np.float32)
        actions[:, :3] = np.clip(self._gain * to_goal_m, -1.0, 1.0)
        return actions
