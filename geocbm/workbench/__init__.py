"""How notebooks are run: parameters, the chain, the reports and the command line."""
