package approval

// match assigns people to the places of groups, each person to one place at most,
// so that as many places as possible are filled. places holds how many a group
// has, in holds the groups of each person. It returns for each group who got a
// place there, as indexes into in. Who comes first in `in` keeps a place once he
// has one, if not that of the same group.
func match(places []int, in [][]int) [][]int {
	m := matching{places: places, in: in, got: make([][]int, len(places))}
	for person := range in {
		m.seat(person, make([]bool, len(places)))
	}
	return m.got
}

type matching struct {
	places []int
	in     [][]int
	got    [][]int
}

// seat finds a place for a person, moving others to another of their groups where
// that helps. Each group is tried once.
func (m *matching) seat(person int, tried []bool) bool {
	for _, g := range m.in[person] {
		if g < 0 || g >= len(m.places) || tried[g] {
			continue
		}
		tried[g] = true
		if len(m.got[g]) < m.places[g] {
			m.got[g] = append(m.got[g], person)
			return true
		}
		for i, other := range m.got[g] {
			if m.seat(other, tried) {
				m.got[g][i] = person
				return true
			}
		}
	}
	return false
}
