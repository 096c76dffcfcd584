"""Sets of units that act together: found jointly, and held against rankings of single units."""

from bkdinterp.methods.circuits._circuit import Circuit as Circuit
from bkdinterp.methods.circuits._circuit_curve import CircuitCurve as CircuitCurve
from bkdinterp.methods.circuits._circuit_mask import CircuitMask as CircuitMask
from bkdinterp.methods.circuits._edge_scores import EdgeScores as EdgeScores
from bkdinterp.methods.circuits._find_circuit import find_circuit as find_circuit
from bkdinterp.methods.circuits._screen_edges import screen_edges as screen_edges
from bkdinterp.methods.circuits._screened_edges import ScreenedEdges as ScreenedEdges
from bkdinterp.methods.circuits._trace_circuits import trace_circuits as trace_circuits
from bkdinterp.methods.circuits._trace_edges import trace_edges as trace_edges
