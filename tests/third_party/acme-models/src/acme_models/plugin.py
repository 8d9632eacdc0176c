"""What acme-models declares. Importing this imports neither torch nor timm."""

from plm_core.hookspecs import BlockAdapter, Input, Model, Training, Transform, WeightLayout, hookimpl


@hookimpl
def plm_models():
    return [
        Model(
            name="acme_vit_micro",
            family="acme",
            builder="acme_models.model:AcmeViT",  # imported when the model is first created
            config={"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3},
            params=77_146,
            input=Input(size=(3, 32, 32), fixed=True),
            num_classes=10,
            classifier="head",
            first_conv="patch_embed.proj.0",
            out_indices=(0, 1),
            license="MIT",
        ),
        Model(
            name="acme_gated_micro",
            family="acme",
            builder="acme_models.gated:GatedViT",
            config={"img_size": 32, "patch_size": 8, "dim": 48, "depth": 2, "num_heads": 3},
            params=65_786,
            input=Input(size=(3, 32, 32), fixed=True),
            num_classes=10,
            classifier="head",
            first_conv="patches",
            out_indices=(0, 1),
            license="MIT",
        ),
    ]


@hookimpl
def plm_weight_layouts():
    return [
        WeightLayout(
            name="acme-authors",
            models=("acme_models.gated:GatedViT",),  # the class, which may serve many declared models
            rules="acme_models.layouts:authors",
            help="The names in the authors' release.",
        )
    ]


@hookimpl
def plm_block_adapters():
    return [
        BlockAdapter(
            name="acme-gated",
            models=("acme_models.gated:GatedViT",),
            view="acme_models.blocks:view",
            example=("acme_gated_micro", {}),
        )
    ]


@hookimpl
def plm_transforms():
    return [
        Transform(
            name="acme_mean",
            apply="acme_models.transform:apply",
            remove="acme_models.transform:remove",
            help="Attention becomes the mean of the values.",
        )
    ]


@hookimpl
def plm_trainings():
    return [
        Training(
            name="acme-turns",
            help="Learn without labels how an image was rotated.",
            data="images",
            train="acme_models.recipe:run",
            configs="acme_models.recipe:CONFIGS",
            model="acme_vit_micro",
            micro="acme_vit_micro",
        )
    ]
