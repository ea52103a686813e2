namespace LayerSkip

/// A point in a stream of random numbers. The same key always draws the same number. Keys, not streams: who draws
/// hands the next key on, and nothing is shared between threads.
[<Struct>]
type Key = { Seed: uint64; Counter: uint64 }

/// Draws by keys, the same on every machine: a counter through a mixing function (Salmon et al. 2011, "Parallel
/// random numbers: as easy as 1, 2, 3").
[<RequireQualifiedAccess>]
module Key =
    /// The beginning of the stream of a seed; negative seeds are seeds too.
    let ofSeed (seed: int64) : Key = { Seed = uint64 seed; Counter = 0UL }

    // The finaliser of SplitMix64 (Steele, Lea and Flood 2014), twice, so that seeds and counters both spread.
    let private mix (z: uint64) =
        let z = (z ^^^ (z >>> 30)) * 0xBF58476D1CE4E5B9UL
        let z = (z ^^^ (z >>> 27)) * 0x94D049BB133111EBUL
        z ^^^ (z >>> 31)

    let private bits (key: Key) =
        mix (mix (key.Seed + 0x9E3779B97F4A7C15UL) + (key.Counter + 1UL) * 0x9E3779B97F4A7C15UL)

    /// A number in [0, 1) of 53 random bits, and the key after it.
    let uniform (key: Key) : struct (float * Key) =
        struct (float (bits key >>> 11) / 9007199254740992.0, { key with Counter = key.Counter + 1UL })

    /// The start of another stream for each part: a step, a layer, a sample.
    let within (part: int) (key: Key) : Key =
        // A stream's own seed is mixed once more, so that it is no number that `uniform` draws.
        { Seed = mix (bits { key with Counter = uint64 (uint32 part) }); Counter = 0UL }
