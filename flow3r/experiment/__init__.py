"""The paper's controlled experiments on procedural worlds: arms, runs, and what their results say of its claims."""
