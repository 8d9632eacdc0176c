"""Block adapters for the model families of other libraries: timm, torchvision and transformers."""
