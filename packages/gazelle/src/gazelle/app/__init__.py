"""The local page on which one asks where people look.

Contents:

- `gazelle.app.answers`: what the page shows of each person: words, a picture of the heatmap, and the JSON.
- `gazelle.app.session`: a photo that was opened, and the answers to what the browser asks about it. Without gradio.
- `gazelle.app.page`: the page itself, from gradio. ``stage.html``, ``stage.css`` and ``stage.js`` draw the photo.
"""
