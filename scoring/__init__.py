"""What replies are worth: evaluators, text metrics, results and tables. Shares nothing with the generator."""
