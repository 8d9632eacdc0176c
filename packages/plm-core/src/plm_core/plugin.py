"""The declarations of plm-core: its commands, the adapters of other libraries' families, the tour's last stop."""

from __future__ import annotations

from plm_core.adapters.declarations import block_adapters
from plm_core.hookspecs import (
    BlockAdapter,
    Command,
    Input,
    Model,
    Pretrained,
    TourStop,
    Training,
    Transform,
    WeightLayout,
    hookimpl,
)
from plm_core.lm.configs import (
    IMAGE_SIZE,
    LICENSE,
    MEAN,
    MICRO,
    MICRO_SIZE,
    PAPER,
    SIZES,
    STD,
    WEIGHTS_LICENSE,
    Size,
)

LM = "plm_core.lm.model:PerceptionLM"


def _language_model(name: str, size: Size) -> Model:
    return Model(
        name=f"plm_{name}",
        family="plm",
        task="image-text-to-text",
        builder="plm_core.lm.builders:perception_lm",
        config=size.config,
        params=size.params,
        input=Input(size=(3, IMAGE_SIZE, IMAGE_SIZE), mean=MEAN, std=STD, crop_pct=1.0, crop_mode="squash"),
        num_classes=0,
        classifier=None,
        first_conv="vision.tower.patch_embed.proj",
        out_indices=(),
        needs=("plm-core[lm]", "pe-encoder"),
        license=LICENSE,
        paper=PAPER,
        pretrained=(
            Pretrained(
                tag="fb",
                repo=size.repo,
                file="model.safetensors.index.json",
                layout="transformers",
                license=WEIGHTS_LICENSE,
                metrics=size.metrics,
                note="gated: accept its license on the Hub first",
            ),
        ),
    )


@hookimpl
def plm_models() -> list[Model]:
    """Return the published sizes of the Perception Language Model, and a small one for trials."""
    return [*(_language_model(name, size) for name, size in SIZES.items()), _micro()]


def _micro() -> Model:
    return Model(
        name="plm_micro_shapes",
        family="plm",
        task="image-text-to-text",
        builder="plm_core.lm.builders:perception_lm",
        config=MICRO,
        params=618_688,
        input=Input(size=(3, MICRO_SIZE, MICRO_SIZE), mean=MEAN, std=STD, crop_pct=1.0, crop_mode="squash"),
        num_classes=0,
        classifier=None,
        first_conv="vision.tower.patch_embed.proj",
        out_indices=(),
        needs=("plm-core[lm]", "pe-encoder"),
        license=LICENSE,
        paper=PAPER,
    )


@hookimpl
def plm_weight_layouts() -> list[WeightLayout]:
    """Return the layouts of the Perception Language Model."""
    return [
        WeightLayout(
            name="transformers",
            models=(LM,),
            rules="plm_core.lm.layouts:transformers",
            help="PerceptionLM of transformers, whose vision tower is timm's",
        ),
        WeightLayout(
            name="official",
            models=(LM,),
            rules="plm_core.lm.layouts:official",
            help="the original's consolidated.pth",
        ),
    ]


@hookimpl
def plm_commands() -> list[Command]:
    """Return the commands that every installation has."""
    return [
        Command(
            name="list", help="List all models, or those that match a pattern.", implementation="plm_core.cli.list:app"
        ),
        Command(
            name="info", help="Show everything that is declared about a model.", implementation="plm_core.cli.info:info"
        ),
        Command(
            name="doctor", help="Check the installation and every plug-in.", implementation="plm_core.cli.doctor:doctor"
        ),
        Command(
            name="matrix",
            help="Show which transforms, mergers and scorers work on which models.",
            implementation="plm_core.cli.matrix:matrix",
        ),
        Command(
            name="bench", help="Time a model with and without transforms.", implementation="plm_core.cli.bench:bench"
        ),
        Command(
            name="predict",
            help="Predict the classes of images or videos, or the objects in images.",
            implementation="plm_core.cli.predict:predict",
        ),
        Command(
            name="embed",
            help="Write the embeddings of all images in a folder to a file.",
            implementation="plm_core.cli.embed:app",
        ),
        Command(
            name="evaluate",
            help="Compute the accuracy of a classifier on labelled images or videos.",
            implementation="plm_core.cli.evaluate:evaluate",
        ),
        Command(
            name="convert",
            help="Convert weights to a safetensors file in another layout.",
            implementation="plm_core.cli.convert:convert",
        ),
        Command(
            name="push", help="Publish a model folder on the Hugging Face Hub.", implementation="plm_core.cli.push:push"
        ),
        Command(
            name="train",
            help="Train a model by a recipe, and leave a model folder.",
            implementation="plm_core.cli.train:train",
        ),
        Command(
            name="check-data",
            help="Check the conversations that a language model is to be trained on.",
            implementation="plm_core.cli.check_data:check",
        ),
        Command(
            name="ask",
            help="Ask a language model about images and videos.",
            implementation="plm_core.cli.ask:ask",
        ),
        Command(
            name="chat",
            help="Talk with a language model about images and videos.",
            implementation="plm_core.cli.chat:chat",
        ),
        Command(
            name="serve",
            help="Serve a language model to programs, by the interface of OpenAI.",
            implementation="plm_core.cli.serve:serve",
        ),
        Command(
            name="videobench",
            help="Answer and score PLM-VideoBench, five tasks on videos.",
            implementation="plm_core.cli.videobench:app",
        ),
        Command(
            name="caption",
            help="Write captions of images and videos, as data to train on.",
            implementation="plm_core.cli.caption:app",
        ),
        Command(
            name="retrain",
            help="Train a shipped micro model again, from scratch.",
            implementation="plm_core.cli.retrain:retrain",
        ),
        Command(
            name="tour",
            help="Show the installed packages at work, on data that ships with them.",
            implementation="plm_core.cli.tour:tour",
        ),
    ]


@hookimpl
def plm_transforms() -> list[Transform]:
    """Return the transform that makes linear layers and convolutions faster on the CPU."""
    return [
        Transform(
            name="packed",
            apply="plm_core.packing:apply",
            remove="plm_core.packing:remove",
            example={"tune": False},
            help="Linear layers as fast as the processor allows, on the CPU in float32; see plm_core.packing.apply.",
        )
    ]


@hookimpl
def plm_block_adapters() -> list[BlockAdapter]:
    """Return the adapters of the model families of other libraries, and that of the language model."""
    return [
        *block_adapters(),
        BlockAdapter(
            name="plm",
            models=(LM,),
            view="plm_core.lm.blocks:view",
            embed="plm_core.lm.blocks:embed",
            example=("plm_core.lm.blocks:example", {}),
            input_size=(3, 64, 64),
        ),
    ]


@hookimpl
def plm_trainings() -> list[Training]:
    """Return the recipe for any classifier, and those of the language model."""
    return [
        Training(
            name="finetune",
            help="Finetune any classifier of images, of timm or of a plug-in.",
            data="images",
            train="plm_core.runs.classification:train_classifier",
            configs="plm_core.runs.classification:PRESETS",
            presets={"*_micro_*": "micro", "test_*": "micro", "*": "default"},
            micro="test_vit",
            options=("pretrained", "weights", "transforms"),
        ),
        _language_training("lm-stage1", "Train the projector of a language model that sees, on captions.", "STAGE1"),
        _language_training("lm-stage2", "Train all of a language model that sees, on synthetic data.", "STAGE2"),
        _language_training("lm-stage3", "Train all of a language model that sees, on people's answers.", "STAGE3"),
        _language_training("lm-finetune", "Finetune a language model that sees, on your conversations.", "FINETUNE"),
    ]


def _language_training(name: str, help: str, table: str) -> Training:
    sizes = {"plm_1b": "1b", "plm_3b": "3b", "plm_8b": "8b"} if table != "FINETUNE" else {"*": "default"}
    return Training(
        name=name,
        help=help,
        data="conversations",
        train="plm_core.lm.recipes.stages:run",
        configs=f"plm_core.lm.recipes.tables:{table}",
        presets={"plm_micro_*": "micro", **sizes},
        model="plm_1b" if table in ("STAGE1", "FINETUNE") else None,
        micro="plm_micro_shapes",
        options=("pretrained", "weights"),
    )


@hookimpl
def plm_tour_stops() -> list[TourStop]:
    """Return the stop of the transform ``packed``, and the last stop, which shows what is installed."""
    return [
        TourStop(name="packed", title="The same layers, multiplied faster", run="plm_core.tour:packed", order=50),
        TourStop(name="installed", title="What is installed", run="plm_core.tour:installed", order=900),
    ]
