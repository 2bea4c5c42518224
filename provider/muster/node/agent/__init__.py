"""The node's part of a running job: guardian, agent, leader, follower."""
