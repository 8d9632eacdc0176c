"""The measurements behind the README's figures: ``python -m hydra_attn.experiments --out DIR``.

scaling    time against tokens: the attention, a layer, and whole models (module ``models``)
accuracy   micro ViTs of 1025 tokens with 0, 2, half and all layers replaced, from scratch and by distillation
heads      micro ViTs with the softmax and with linear attention of 1 to D heads (the paper's figure 2)
"""
