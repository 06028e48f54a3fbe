"""Training of the drawn preset's own networks: autoencoder, CLIP pair, parser, recogniser, judge, base UNet.

    python -m consistentid.training.drawn RECIPE.yaml autoencoder --out RUN [--device cuda]

The networks are diffusers' and transformers' own classes; a recipe gives every size. Each can be stopped at any
moment, also by ``kill -9``: the same line goes on from the last checkpoint.
"""
