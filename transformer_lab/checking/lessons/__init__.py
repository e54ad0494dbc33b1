"""One module a lesson: its exercises with probes, wrong answers, alternatives and hints."""
