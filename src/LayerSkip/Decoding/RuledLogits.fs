namespace LayerSkip

open System
open Microsoft.FSharp.NativeInterop

#nowarn "9" // Rows of logits where their copy lies.

/// Copies of logits in which the rules of a text hold.
[<RequireQualifiedAccess>]
module internal RuledLogits =
    let private row (first: nativeint) columns index : Span<float32> =
        let at = first + nativeint index * nativeint columns * nativeint sizeof<float32>
        Span<float32>(NativePtr.toVoidPtr (NativePtr.ofNativeInt<float32> at), columns)

    /// Bits of a word that stand for ids, as numbers of one row: those of bits that are not set are forbidden.
    let private forbid (forbidden: float32) (bits: uint64) (numbers: Span<float32>) =
        if bits = 0UL then
            numbers.Fill forbidden
        else
            let mutable rest = ~~~bits

            while rest <> 0UL do
                let bit = Numerics.BitOperations.TrailingZeroCount rest

                if bit < numbers.Length then
                    numbers[bit] <- forbidden

                rest <- rest &&& (rest - 1UL)

    /// A row of the whole vocabulary; whether anything is allowed.
    let private rule (forbidden: float32) (text: RuledText) (numbers: Span<float32>) : bool =
        for KeyValue(id, _) in text.Counts do
            numbers[id] <- float32 (text.Logit(id, float numbers[id]))

        for KeyValue(id, _) in text.Biases do
            if not (text.Counts.ContainsKey id) then
                numbers[id] <- float32 (text.Logit(id, float numbers[id]))

        let mask = text.Mask
        let mutable any = mask.Length = 0

        for word in 0 .. mask.Length - 1 do
            let start = 64 * word
            any <- any || mask[word] <> 0UL
            forbid forbidden mask[word] (numbers.Slice(start, min 64 (numbers.Length - start)))

        any

    /// A row of some ids, a number for each.
    let private ruleSome (forbidden: float32) (text: RuledText) (ids: int[]) (numbers: Span<float32>) : bool =
        let mutable any = false

        for place in 0 .. numbers.Length - 1 do
            if text.Allows ids[place] then
                any <- true
                numbers[place] <- float32 (text.Logit(ids[place], float numbers[place]))
            else
                numbers[place] <- forbidden

        any

    /// What is forbidden where probabilities matter: it has none.
    let none = Single.NegativeInfinity

    /// What is forbidden where numbers must be finite, and only the largest matters.
    let least = Single.MinValue

    /// Rows as the rules after `texts` have them, one for each, and the first row in which nothing is allowed.
    let over
        (forbidden: float32)
        (vocabulary: DraftVocabulary option)
        (texts: RuledText[])
        (logits: Logits)
        : struct (Logits * int voption) =
        let struct (copy, first) = Logits.copied logits
        let columns = Logits.columns copy
        let ids = vocabulary |> Option.map DraftVocabulary.ids
        let mutable stuck = ValueNone

        for index in 0 .. texts.Length - 1 do
            let numbers = row first columns index

            let any =
                match ids with
                | Some ids -> ruleSome forbidden texts[index] ids numbers
                | None -> rule forbidden texts[index] numbers

            if not any && stuck.IsNone then
                stuck <- ValueSome index

        GC.KeepAlive copy
        struct (copy, stuck)
