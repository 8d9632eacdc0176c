"""The measurements behind the README's figures: ``python -m zipit.experiments [NAME ...] --out DIR``.

two        two ResNets that know five digits each become one
three      three ResNets that know four, three and three digits
vit        two small ViTs

Modules: ``digits`` has the measurements, ``training`` the images and the training, ``networks`` the networks.
"""
