"""Dead letters for operators: listed, redriven, discarded."""
