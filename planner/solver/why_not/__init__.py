"""Why a problem has no layout: the smallest conflict, and the changes of the question that leave one."""
