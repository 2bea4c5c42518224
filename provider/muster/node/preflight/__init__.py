"""What is looked at on every node, and between nodes, before a rank starts."""
