"""Training of the drawn preset's own networks: autoencoder, CLIP pair, parser, recogniser, judge, base UNet, adapter.

    python -m consistentid.training.drawn RECIPE.yaml all --out RUN [--device cuda]

The networks are diffusers' and transformers' own classes; a recipe gives every size. All can be stopped at any moment,
also by ``kill -9``: the same line goes on from the last checkpoint. `stages` has their order, `loop` how they learn.
"""
