"""CP-SAT as gptplan uses it, set up in one place."""

from ortools.sat.python import cp_model


def deterministic_solver() -> cp_model.CpSolver:
    """A solver on one thread, so that equal models give equal answers."""
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    # Its own handler of Ctrl-C would stay behind in place of Python's.
    solver.parameters.catch_sigint_signal = False
    # With this detection OR-Tools 9.15 calls models infeasible whose values exceed 2^31 and that it
    # solves, to the same optimum, without the detection, without presolve or in coarser units.
    solver.parameters.auto_detect_greater_than_at_least_one_of = False
    return solver
