// Before the first paint: the theme that was chosen here. Without a choice, the system's.
(() => {
  try {
    const theme = localStorage.getItem("zonda.theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // Storage is forbidden: the system's theme.
  }
})();
