"""Language models: where weights come from, how they are loaded, and where their decoder blocks are."""
