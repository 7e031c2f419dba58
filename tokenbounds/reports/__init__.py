"""Reports: certificates and measurements to tables and figures.

In: certificates, records, training curves and experiments' results, as files. Out: tables as csv, markdown
and LaTeX; figures as pdf and png, with the numbers behind each as csv. Each table or figure is made by a
function `draw(inputs, spec, outputs)` that its section of the configuration names."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "formats": ["latex", "markdown", "write_csv"],
        "rows": ["best_of"],
        "tables": ["frame", "write_table"],
        "text_tables": ["write_text_table"],
    },
)
