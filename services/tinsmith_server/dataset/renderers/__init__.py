"""The renderer: conversations to tokens and weights, and sampled tokens back to messages."""

from tinsmith_server.dataset.renderers.examples import render_examples
from tinsmith_server.dataset.renderers.service import RendererService
from tinsmith_server.dataset.renderers.shelf import Shelf

__all__ = ["RendererService", "Shelf", "render_examples"]
