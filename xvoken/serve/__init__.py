"""A gallery asked over HTTP: a page for people, JSON for programs. docs/serve.md says how it is used and what it refuses."""
