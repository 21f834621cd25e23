"""Names that fast-reid's own scripts (tools/, demo/) import and newer libraries dropped."""

from __future__ import annotations

from typing import Any


def lend_script_names() -> None:
    """Give torch.onnx the `OperatorExportTypes` that tools/deploy/onnx_export.py asks it for and exports with.

    Newer versions of torch have neither the names nor the argument, and by default an exporter that traces another
    way. Under this plugin's runner the script gets the exporter that it was written for.
    """
    import torch.onnx

    export = torch.onnx.export
    if getattr(export, "is_lent", False):
        return
    # tools/deploy/onnx_export.py: torch.onnx has no `OperatorExportTypes` any more, and exports another way by default.
    if not hasattr(torch.onnx, "OperatorExportTypes"):

        class OperatorExportTypes:
            ONNX = ONNX_ATEN_FALLBACK = ONNX_ATEN = ONNX_FALLTHROUGH = None

        torch.onnx.OperatorExportTypes = OperatorExportTypes

    def export_as_before(*args: Any, operator_export_type: Any = None, **kwargs: Any) -> Any:
        return export(*args, **{"dynamo": False, **kwargs})

    export_as_before.is_lent = True  # type: ignore[attr-defined]
    torch.onnx.export = export_as_before
