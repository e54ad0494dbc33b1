"""Speed and learning, measured in turns with other libraries and against what the machine can give."""
