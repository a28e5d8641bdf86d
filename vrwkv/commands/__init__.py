"""The console commands of the vision package; `tools/` and pip's entry points hand over to them."""
