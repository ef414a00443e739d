"""Layouts that crash shares between commands."""


def task_header(pid: int, address: int, cpu: int, comm: str) -> str:
    """The line that introduces a task (crash's print_task_header())."""
    return f'PID: {pid:<7}  TASK: {address:016x}  CPU: {cpu:<3}  COMMAND: "{comm}"'
