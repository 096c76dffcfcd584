"""A set of heads and MLPs as the JSON of MIB (Mueller et al. 2025, arXiv 2504.13151), which is that of EAP-IG's graphs.

Nodes are ``input``, ``a{layer}.h{head}``, ``m{layer}`` and ``logits``; an edge into a head says which of q, k, v it enters.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from bkdinterp.errors import BkdinterpError
from bkdinterp.model import Architecture
from bkdinterp.sites import Component, Site

INPUT, LOGITS = "input", "logits"


def mib_values(
    sites: Iterable[Site],
    architecture: Architecture,
    scores: Mapping[tuple[Site, Site | None], float] | None = None,
) -> dict[str, Any]:
    """Configuration, all nodes, and edges between those that are in the circuit.

    Args:
        sites: heads and MLPs.
        architecture: of the model.
        scores: (sender, receiver) -> score of the edges that are in the circuit, None for the logits; besides, the input has an
            edge to every site, with a score of 0. None takes all edges between the sites, the input and the logits, with a
            score of 1.

    Raises:
        BkdinterpError: a site that is neither a head nor an MLP's output.
    """
    chosen = {_node(site) for site in sites}
    parallel = architecture.parallel
    nodes = [INPUT]
    for layer in range(architecture.n_layers):
        nodes += [f"a{layer}.h{head}" for head in range(architecture.n_heads)]
        nodes.append(f"m{layer}")
    inside = [name for name in nodes if name in chosen or name == INPUT]
    if scores is None:
        pairs = {
            (parent, child): 1.0
            for i, parent in enumerate(inside)
            for child in [*inside[i + 1 :], LOGITS]
            if _before(parent, child, parallel=parallel)
        }
    else:
        pairs = {(INPUT, name): 0.0 for name in inside if name != INPUT}
        pairs |= {(_node(a), LOGITS if b is None else _node(b)): score for (a, b), score in scores.items()}
    edges = {name: score for (parent, child), score in pairs.items() for name in _edges(parent, child)}
    return {
        "cfg": {
            "n_layers": architecture.n_layers,
            "n_heads": architecture.n_heads,
            "parallel_attn_mlp": parallel,
            "d_model": architecture.d_model,
        },
        "nodes": {name: {"in_graph": name in (*inside, LOGITS)} for name in [*nodes, LOGITS]},
        "edges": {name: {"score": score, "in_graph": True} for name, score in edges.items()},
    }


def _node(site: Site) -> str:
    if site.component is Component.z and site.head is not None:
        return f"a{site.layer}.h{site.head}"
    if site.component is Component.mlp_out and site.neuron is None:
        return f"m{site.layer}"
    raise BkdinterpError(f"{site}: MIB's graphs have heads and MLPs (L5.mlp_out) as nodes, nothing else.")


def _before(parent: str, child: str, *, parallel: bool) -> bool:
    """Whether the parent writes to the residual stream before the child reads it."""
    if parent == INPUT or child == LOGITS:
        return True
    (own, layer), (theirs, later) = ((name[0], int(name[1:].split(".")[0])) for name in (parent, child))
    # An MLP reads what its own layer's heads wrote, unless both run side by side.
    return layer < later or (layer == later and own == "a" and theirs == "m" and not parallel)


def _edges(parent: str, child: str) -> list[str]:
    into = [f"{child}<{letter}>" for letter in "qkv"] if child[0] == "a" else [child]
    return [f"{parent}->{name}" for name in into]
