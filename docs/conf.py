"""How the documentation is built: `make docs`; every warning is an error and nothing is loaded from elsewhere."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import anatrust

project = "anatrust"
author = "The anatrust developers"
project_copyright = "2026, the anatrust developers"
version = release = anatrust.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "anatrust"
html_static_path = ["_static"]
html_theme_options = {"top_of_page_buttons": []}
html_copy_source = False
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = True
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = ["Guarantee"]

# References to anatrust itself must resolve, see `find_public_name`. Types of other packages have
# no page here: their inventories would have to be loaded from the network.
nitpick_ignore_regex = [("py:.*", r"(?!anatrust\.).*")]


def find_public_name(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Lead a reference to where its object is documented; one that does not exist stays an error.

    Docstrings name objects by the module they live in, pages by their public name. An object
    that exists but has no entry of its own is shown without a link.
    """
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target.startswith("anatrust."):
        return None
    parts = target.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = import_module(".".join(parts[:cut]))
            for name in parts[cut:]:
                # Fields of a dataclass without a default exist as annotations only.
                found = getattr(found, name) if hasattr(found, name) else found.__annotations__[name]
        except (ImportError, AttributeError, KeyError):
            continue
        domain = env.get_domain("py")
        for known, entry in domain.objects.items():
            if known.endswith(f".{parts[-1]}") and same_object(known, found):
                return domain.resolve_xref(env, node["refdoc"], app.builder, entry.objtype, known, node, contnode)
        return contnode
    return None


def same_object(name: str, found: Any) -> bool:
    """Whether the dotted public name leads to this very object."""
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(import_module(module), attribute) is found
    except (ImportError, AttributeError):
        return False


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("missing-reference", find_public_name)
