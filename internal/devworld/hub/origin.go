package hub

// originRoutes are those about runs, refs, rules, environments and checks of a
// build.
func (h *Hub) originRoutes() {}
