"""Python around the example graphs: API client, graph builder, demo, contact sheet, screenshots, locales."""
