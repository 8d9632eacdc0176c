"""From questions with images and videos to the inputs of a model, and from its ids to text.

    processor = Processor.from_pretrained("plm_micro_shapes")
    inputs = processor("what is this?", ["photo.jpg"])
    ids = model.generate(**inputs)
    processor.decode(ids[0, inputs["input_ids"].shape[1] :])

Shapes: B prompts of L tokens, N chunks of S x S pixels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plm_core.errors import InputError, MissingDependency, WeightsError
from plm_core.hookspecs import Model, Pretrained
from plm_core.hub import HubFile, fetch_folder, read_config
from plm_core.lm.chat import ChatEncoder, ChatFormat, Encoded
from plm_core.lm.configs import MAX_LENGTH
from plm_core.lm.media import MediaSettings, frame_chunks, image_chunks, read_video, single_chunk, video_chunks
from plm_core.lm.prompts import Medium, Prompt, VideoClip, picture_of, video_of
from plm_core.lm.regions import draw_boxes, region_text
from plm_core.lm.tiling import size_of
from plm_core.lm.video import TimeMap
from plm_core.registry import registry
from plm_core.utils.files import make_folder, write_text
from plm_core.utils.references import shipped_file
from plm_core.utils.text import is_name

PREPROCESSOR_FILE = "preprocessor.json"
"""The file with the settings of the media and the greatest length, beside the tokenizer."""
TOKENIZER_PATTERNS = ("tokenizer*", "special_tokens_map.json", "chat_template*", "*.model", "*config.json")


@dataclass(frozen=True, eq=False)
class Prepared:
    """Prompts as the inputs of a model.

    Attributes:
        inputs: The keywords of ``generate`` and of the model: ``input_ids`` and ``attention_mask`` [B, L], padded on
            the left, and ``pixel_values`` [N, 3, S, S] if there are any.
        chunks: The number of chunks of each prompt.
        tokens: The number of visual tokens of each prompt.
        lengths: The number of tokens of each prompt, visual ones too.
        times: What the frames of each prompt's video are in the file; None for a prompt without one video.
    """

    inputs: dict[str, Tensor]
    chunks: list[int]
    tokens: list[int]
    lengths: list[int]
    times: list[TimeMap | None]


class Processor:
    """What stands between people and a model: the tokenizer, the chat format, tiles and frames.

    Args:
        tokenizer: A tokenizer of transformers whose special tokens are of a known format, see `plm_core.lm.chat`.
        settings: How images and videos become chunks.
        max_length: The most tokens of a conversation that the model takes.
        format: The strings around the turns (default: known by the tokenizer's special tokens).
        system: The system prompt (default: that of the tokenizer's chat template).

    Raises:
        NotSupported: The tokenizer has no known format.
    """

    def __init__(
        self,
        tokenizer: Any,
        settings: MediaSettings,
        max_length: int = MAX_LENGTH,
        *,
        format: ChatFormat | None = None,
        system: str | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.settings = settings
        self.max_length = max_length
        self.encoder = ChatEncoder(tokenizer, settings.tokens, format=format, system=system)

    def with_settings(self, **changes: Any) -> Processor:
        """Return a processor with changed `MediaSettings`, such as ``max_tokens``."""
        encoder = self.encoder
        settings = replace(self.settings, **changes)
        return Processor(self.tokenizer, settings, self.max_length, format=encoder.format, system=encoder.system)

    @cached_property
    def stop_ids(self) -> list[int]:
        """The ids that end an answer."""
        form = self.encoder.format
        names = dict.fromkeys(text.strip() for text in (form.end_of_turn, form.end, form.pad) if text.strip())
        return list(dict.fromkeys(int(self.tokenizer.convert_tokens_to_ids(name)) for name in names))

    def __call__(
        self, text: str | Prompt | Sequence[str | Prompt], media: Sequence[Medium] = (), boxes: Sequence[Any] = ()
    ) -> dict[str, Tensor]:
        """Return the inputs of a model for one prompt or several.

        Args:
            text: A question, or prompts.
            media: The images and videos of a question. A prompt has its own.
            boxes: The regions of a question.

        Returns:
            ``input_ids``, ``attention_mask`` and ``pixel_values``, see `Prepared`.

        Raises:
            InputError: See `prepare`.
        """
        if isinstance(text, str):
            return self.prepare([Prompt(text=text, media=media, boxes=boxes)]).inputs
        if media or boxes:
            raise InputError("media and boxes belong to one question; give each of several a Prompt with its own")
        prompts = [text] if isinstance(text, Prompt) else text
        return self.prepare([Prompt(text=item) if isinstance(item, str) else item for item in prompts]).inputs

    def prepare(self, prompts: Sequence[Prompt]) -> Prepared:
        """Return prompts as the inputs of a model, and what became of their media.

        Raises:
            InputError: There is no prompt; a file cannot be read; the marks do not fit the media; or a prompt is longer
                than the model takes. With several prompts the message says which one.
            MissingDependency: PyAV is not installed, and there is a video.
        """
        if not prompts:
            raise InputError("there is no prompt")
        encoded, chunks, times = [], [], []
        for number, prompt in enumerate(prompts):
            try:
                pixels, time, counts = self._media(prompt)
                encoded.append(self._encode(prompt, counts))
            except InputError as e:
                if len(prompts) == 1:
                    raise
                raise InputError(f"prompt {number}: {e}") from e
            chunks.append(pixels)
            times.append(time)
        longest = max(len(one.input_ids) for one in encoded)
        rows = [[self.encoder.pad_id] * (longest - len(one.input_ids)) + one.input_ids for one in encoded]
        mask = [[0] * (longest - len(one.input_ids)) + [1] * len(one.input_ids) for one in encoded]
        inputs = {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}
        if shown := [pixels for pixels in chunks if pixels is not None]:
            inputs["pixel_values"] = torch.cat(shown)
        return Prepared(
            inputs,
            chunks=[0 if pixels is None else len(pixels) for pixels in chunks],
            tokens=[len(one.media) for one in encoded],
            lengths=[len(one.input_ids) for one in encoded],
            times=times,
        )

    def decode(self, ids: Tensor | Sequence[int]) -> str:
        """Return generated ids as text, up to the first that ends an answer."""
        numbers = [int(number) for number in ids]
        stops = [place for place, number in enumerate(numbers) if number in self.stop_ids]
        text: str = self.tokenizer.decode(numbers[: stops[0]] if stops else numbers, skip_special_tokens=True)
        return text.strip()

    def _media(self, prompt: Prompt) -> tuple[Tensor | None, TimeMap | None, list[int]]:
        """Return the chunks of a prompt, the times of its one video, and the number of chunks of each medium."""
        parts, times = [], []
        for medium in prompt.media:
            clip = video_of(medium)
            if clip is not None:
                pixels, time = self._video(clip)
                times.append(time)
            else:
                image = picture_of(medium)
                several = len(prompt.media) > 1
                pixels = single_chunk(image, self.settings) if several else image_chunks(image, self.settings)
            parts.append(pixels)
        return (torch.cat(parts) if parts else None), (times[0] if len(times) == 1 else None), [len(p) for p in parts]

    def _video(self, clip: VideoClip) -> tuple[Tensor, TimeMap | None]:
        if not isinstance(clip.source, str | Path):
            pixels = clip.source
            drawn = pixels if clip.box is None else _drawn(pixels, range(len(pixels)), clip.box)
            return frame_chunks(drawn, self.settings), None
        if clip.box is None:
            return video_chunks(clip.source, self.settings, clip.start, clip.end)
        frames = read_video(clip.source, self.settings, clip.start, clip.end)
        return frame_chunks(_drawn(frames.pixels, frames.indices, clip.box), self.settings), frames.times

    def _encode(self, prompt: Prompt, counts: list[int]) -> Encoded:
        text: Any = prompt.text
        if prompt.boxes:
            text = self._with_regions(prompt)
        one = self.encoder.prompt(text, counts)
        if len(one.input_ids) >= self.max_length:
            raise InputError(
                f"the prompt has {len(one.input_ids)} tokens, {len(one.media)} of them visual, and the model takes "
                f"{self.max_length} with the answer; set max_tokens to spend fewer on images"
            )
        return one

    def _with_regions(self, prompt: Prompt) -> Any:
        """Return the texts of a prompt with coordinates in the places of the regions' marks."""
        width, height = size_of(picture_of(prompt.media[0]))
        boxes = [(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in prompt.boxes]
        if not any("<|bbox" in text for text in prompt.questions):
            raise InputError("boxes are given, and the text has no <|bbox0|> that stands for the first of them")
        if isinstance(prompt.text, str):
            return region_text(prompt.text, boxes, width, height)
        return [
            {**message, "content": region_text(str(message.get("content", "")), boxes, width, height)}
            for message in prompt.text
        ]

    # --- files ------------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, source: str | Path, **changes: Any) -> Processor:
        """Load the processor of a model.

        Args:
            source: What `plm_core.lm.from_pretrained` takes.
            **changes: Changes of the `MediaSettings`, such as ``max_tokens``.

        Raises:
            UnknownName: There is no such model.
            WeightsError: The files cannot be obtained.
            InputError: The source has no tokenizer, or a setting is not allowed.
            MissingDependency: The extra plm-core[lm] is not installed.
        """
        try:
            from transformers import AutoTokenizer
        except ModuleNotFoundError as e:
            raise MissingDependency("a language model needs transformers: install plm-core[lm]") from e
        folder = _folder_of(str(source))
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder))
        except (OSError, ValueError, KeyError) as e:
            raise InputError(
                f"{str(source)!r} has no tokenizer that transformers reads: {' '.join(str(e).split())}"
            ) from e
        settings, max_length = _settings_of(folder)
        return cls(tokenizer, replace(settings, **changes), max_length)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the tokenizer and the settings into a folder, beside the weights of a model.

        The files are also those that ``AutoProcessor`` of transformers reads, and vLLM. They tile as the original does:
        theirs know no budget, tile each of several images, and show all frames of a video.

        Raises:
            FileError: A file cannot be written.
        """
        folder = make_folder(folder)
        theirs = self._transformers()
        (self.tokenizer if theirs is None else theirs).save_pretrained(str(folder))
        self._generation().save_pretrained(str(folder))
        text = json.dumps({"max_length": self.max_length, **asdict(self.settings)}, indent=2)
        write_text(folder / PREPROCESSOR_FILE, text + "\n")

    def _generation(self) -> Any:
        """Return the settings by which transformers ends an answer where we do."""
        from transformers import GenerationConfig

        return GenerationConfig(eos_token_id=self.stop_ids, pad_token_id=self.encoder.pad_id, do_sample=False)

    def _transformers(self) -> Any:
        """Return the processor of transformers that does the same; None if there is none."""
        from transformers import PerceptionLMImageProcessor, PerceptionLMProcessor, PerceptionLMVideoProcessor

        settings = self.settings
        side = math.isqrt(settings.tokens)
        square = side * side == settings.tokens and settings.size // (settings.size // side) == side
        if not square or getattr(self.tokenizer, "image_token", None) is None:
            return None
        sizes = {"size": {"height": settings.size, "width": settings.size}}
        pixels = {**sizes, "image_mean": list(settings.mean), "image_std": list(settings.std)}
        tiles = {
            "tile_size": settings.size,
            "max_num_tiles": settings.max_tiles,
            "vision_input_type": settings.mode,
        }
        return PerceptionLMProcessor(
            image_processor=PerceptionLMImageProcessor(**pixels, **tiles),
            video_processor=PerceptionLMVideoProcessor(**pixels),
            tokenizer=self.tokenizer,
            patch_size=settings.size // side,  # of a visual token, so that nothing is left to pool
            pooling_ratio=1,
            chat_template=self.tokenizer.chat_template,
        )


def _drawn(pixels: Any, indices: Sequence[int], box: Sequence[float]) -> Tensor:
    return draw_boxes(pixels, list(indices), {str(index): list(box) for index in indices})


def _folder_of(source: str) -> Path:
    """Return the folder with a model's tokenizer: its own, one that is shipped, or one of a repository's files."""
    name, _, tag = source.partition(".")
    declared = registry().all(Model).get(name)
    if declared is not None:
        entries: Sequence[Pretrained] = declared.declaration.pretrained
        if not entries:
            raise WeightsError(f"model {name!r} has no pretrained weights, and so no tokenizer")
        entry = next((entry for entry in entries if entry.tag == tag), entries[0])
        if entry.repo is None:
            return shipped_file(entry.file).with_suffix("")
        return fetch_folder(HubFile(entry.repo, entry.revision), TOKENIZER_PATTERNS)
    folder = Path(source.removeprefix("local-dir:"))
    if folder.is_dir():
        return folder
    repo = HubFile.parse(source)
    if repo is None:
        if is_name(name):
            registry().get(Model, name)  # raises the error with similar names
        raise WeightsError(
            f"source {source!r} is neither a declared model, a folder nor a repository 'org/name[@revision]'"
        )
    return fetch_folder(repo, TOKENIZER_PATTERNS)


def _settings_of(folder: Path) -> tuple[MediaSettings, int]:
    """Return the settings of a folder of ours, or those that transformers' files and the model's configuration say."""
    if (folder / PREPROCESSOR_FILE).is_file():
        values = _json(folder / PREPROCESSOR_FILE)
        known = {field.name for field in fields(MediaSettings)}
        own: dict[str, Any] = {key: _as_tuple(value) for key, value in values.items() if key in known}
        return MediaSettings(**own), int(values.get("max_length", MAX_LENGTH))
    settings = media_settings(read_config(folder))
    theirs = _transformers_settings(folder)
    if theirs.get("max_num_tiles"):
        settings = replace(settings, max_tiles=theirs["max_num_tiles"])
    if theirs.get("vision_input_type", "thumb+tile") != "thumb+tile":
        settings = replace(settings, mode="vanilla")
    for ours, name in (("mean", "image_mean"), ("std", "image_std")):
        if theirs.get(name):
            settings = replace(settings, **{ours: _as_tuple(theirs[name])})
    return settings, MAX_LENGTH


def _transformers_settings(folder: Path) -> dict[str, Any]:
    """Return how transformers prepares images, which newer versions write into the file of the whole processor."""
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            values = _json(folder / name)
            if "image_processor" in values or name != "processor_config.json":
                theirs: dict[str, Any] = values.get("image_processor", values)
                return theirs
    return {}


def media_settings(config: Mapping[str, Any]) -> MediaSettings:
    """Return the settings that follow from the configuration of a model: the size of a chunk, and its visual tokens.

    Args:
        config: Keywords of transformers' PerceptionLMConfig.

    Raises:
        InputError: The configuration does not say how large the patches of its tower are.
    """
    vision: Mapping[str, Any] = config["vision_config"]
    arguments: Mapping[str, Any] = vision.get("model_args") or {}
    name = str(vision.get("architecture"))
    declared = registry().all(Model).get(name)
    size = arguments.get("img_size") or (declared.declaration.input.size[1] if declared else None)
    patch = arguments.get("patch_size") or _patch_of(name)
    if size is None or patch is None:
        raise InputError(f"the configuration does not say the size of images and of patches of {name!r}")
    side = (size if isinstance(size, int) else size[0]) if size else 0
    return MediaSettings(size=side, tokens=(side // patch // config.get("projector_pooling_ratio", 1)) ** 2)


def _patch_of(name: str) -> int | None:
    """Return the side of a patch, which names of vision transformers say."""
    digits = name.rpartition("patch")[2].partition("_")[0]
    return int(digits) if "patch" in name and digits.isdigit() else None


def _json(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise InputError(f"{path} cannot be read: {e}") from e
    return values


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
