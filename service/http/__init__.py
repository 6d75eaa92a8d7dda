"""HTTP: routes, schemas, problems, responses, middleware and the OpenAPI document."""
