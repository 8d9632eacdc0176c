"""Gaze in videos: who looks where in each frame, as a table and as a video with drawings.

    from gazelle import Estimator, video

    for frame in video.gaze_frames(Estimator(model), "clip.mp4"):
        print(frame.number, [(person.id, person.look.point) for person in frame.people])
    video.write_gaze_video(Estimator(model), "clip.mp4", "clip.gaze.mp4", "clip.gaze.csv")

- ``settings``: `VideoSettings`, how often people are looked for, and how much points are smoothed.
- ``following``: the head boxes of all frames, with the same number for a person in every frame.
- ``looking``: `gaze_frames`, the frames of a video with the people in them.
- ``rows``: the table, one row for each person and frame.
- ``files``: `write_gaze_video`, which writes the table and the video.

Reading and writing video needs PyAV (extra ``gazelle[video]``).
"""

from __future__ import annotations

from gazelle.video.files import VideoSummary, write_gaze_video
from gazelle.video.looking import GazeFrame, gaze_frames
from gazelle.video.settings import VideoSettings

__all__ = ["GazeFrame", "VideoSettings", "VideoSummary", "gaze_frames", "write_gaze_video"]
