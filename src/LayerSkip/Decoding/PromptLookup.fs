namespace LayerSkip

open System

/// What a text says next if it goes on as it did before (prompt lookup, Saxena 2023).
[<RequireQualifiedAccess>]
module PromptLookup =
    /// The longest ending that is looked for where nothing else is said.
    let defaultNgram = 3

    /// Up to `ahead` tokens that followed the first place at which the text's longest possible ending, of at most `maxNgram` tokens,
    /// stood before. The first one, as others have it: the most tokens follow it. Empty where even the last token is new.
    let find (maxNgram: int) (ahead: int) (text: ReadOnlySpan<int>) : int[] =
        // An earlier place may run into the ending, but is not the ending.
        let earlier = text.Slice(0, max 0 (text.Length - 1))
        let mutable length = min maxNgram earlier.Length
        let mutable place = -1

        while length > 0 && place < 0 do
            place <- earlier.IndexOf(text.Slice(text.Length - length))

            if place < 0 then
                length <- length - 1

        if place < 0 then
            [||]
        else
            let after = place + length
            text.Slice(after, min ahead (text.Length - after)).ToArray()
