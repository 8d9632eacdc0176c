"""Block adapters for the model families of other libraries: timm, torchvision, transformers and open_clip."""
