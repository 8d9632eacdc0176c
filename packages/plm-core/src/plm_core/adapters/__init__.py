"""The block adapters of other libraries' families: timm, torchvision, transformers."""
