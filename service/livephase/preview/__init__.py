"""Preview: what a viewer sees, and the only crossing between threads and the event loop."""

from livephase.preview.frame import Kind, PreviewFrame
from livephase.preview.hub import PreviewHub, TooManyViewersError
from livephase.preview.render import View
from livephase.preview.viewer import Viewer

__all__ = ["Kind", "PreviewFrame", "PreviewHub", "TooManyViewersError", "View", "Viewer"]
