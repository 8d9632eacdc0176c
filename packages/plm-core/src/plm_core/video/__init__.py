"""Clips from video files. By default they have 16 frames, every fourth of the video (Hiera paper, section 4.2).

    clip = read_clip("cat.mp4")                                   # uint8 [16, H, W, 3]
    probabilities = classify(model, "cat.mp4")                    # 5 clips x 3 crops, averaged
    data = VideoFolder("train", transform=per_clip(create_transform(224, is_training=True)))

Frames are counted in the order in which they are shown. Times and frame rates are ignored, so files with a varying rate
or none are read like any other. Reading and writing need PyAV (extra ``plm-core[video]``).
"""

from __future__ import annotations

from plm_core.video.augmentation import per_clip
from plm_core.video.clips import ClipSettings, read_clip
from plm_core.video.evaluation import classify, input_of, views
from plm_core.video.file import Video, require_av
from plm_core.video.folder import VideoClips, VideoFolder, open_clips
from plm_core.video.writing import video_writer

__all__ = [
    "ClipSettings",
    "Video",
    "VideoClips",
    "VideoFolder",
    "classify",
    "input_of",
    "open_clips",
    "per_clip",
    "read_clip",
    "require_av",
    "video_writer",
    "views",
]
