"""Figures for notebooks, without pyplot. Imports matplotlib."""

import io

from matplotlib.figure import Figure

_SHOWN_DPI, _SHARPER = 90, 2


class ShownFigure(Figure):
    """A matplotlib Figure that shows as a picture in a notebook."""

    # with `%matplotlib inline`, IPython asks its own printer for figures first
    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=_SHOWN_DPI * _SHARPER)
        width, height = (round(_SHOWN_DPI * inches) for inches in self.get_size_inches())
        return file.getvalue(), {"width": width, "height": height}
