"""What shows a student: the app that runs it in a browser, the server that brings both, and a native sample in C++."""
