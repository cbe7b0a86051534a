"""What jobs will take, what they ask a scheduler for, which GPU they get, and the plan printed from all of that."""
