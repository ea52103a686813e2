namespace LayerSkip

open System.Collections.Generic
open System.Text

/// What readers of every kind of file share: a vocabulary's tables, and the last checks.
[<RequireQualifiedAccess>]
module internal TokenizerCore =
    /// The ids that so many pieces may have: some vocabularies have holes, but an id that is a slip of the pen must not ask
    /// for gigabytes.
    let private mostIds (pieces: int) = 100_000 + 8 * pieces

    /// Puts a tokenizer together; ids that are negative or far beyond the number of pieces, or special ones that no piece
    /// has, are errors.
    let create path (parts: TokenizerParts) (added: AddedToken list) (pieces: seq<struct (int * string)>) =
        let pieces = Array.ofSeq pieces
        let most = mostIds pieces.Length
        let outside id = id < 0 || id >= most
        let count = 1 + Seq.fold (fun last (struct (id, _)) -> max last id) -1 pieces

        let faults = [
            if pieces |> Array.exists (fun (struct (id, _)) -> outside id) then
                LayerSkipError.BadFile(path, $"a token has an id outside 0 to {most - 1}")
            for id in parts.Prefix @ Option.toList parts.Bos @ Option.toList parts.Eos do
                if id < 0 || id >= count then
                    LayerSkipError.BadFile(path, $"special token {id} is not among the {count} tokens")
        ]

        if not faults.IsEmpty then
            Error faults
        else
            let byId = Array.create count ""

            for struct (id, piece) in pieces do
                byId[id] <- piece

            let special =
                set [
                    for token in added do
                        if token.Special then
                            token.Id
                ]

            let parts = {
                parts with
                    Bpe = Bpe.without special parts.Bpe
                    Prefix =
                        if parts.Prefix.IsEmpty then
                            Option.toList parts.Bos
                        else
                            parts.Prefix
            }

            Ok(Tokenizer(parts, byId, added))

    /// The 256 ids of `<0x00>` to `<0xFF>`, if the vocabulary has any of them.
    let byteFallback (ids: Dictionary<string, int>) : int[] option =
        let found = Array.init 256 (fun b -> ids.GetValueOrDefault($"<0x%02X{b}>", -1))

        if Array.exists (fun id -> id >= 0) found then
            Some found
        else
            None

    /// The alphabet of a byte-level vocabulary.
    let byteLevel (ids: Dictionary<string, int>) : Alphabet =
        ByteAlphabet.characters
        |> Array.map (fun c -> ids.GetValueOrDefault(string c, -1))
        |> Alphabet.Bytes

    /// The one-character pieces of a vocabulary by code point.
    let codePoints (ids: Dictionary<string, int>) : Dictionary<int, int> =
        let points = Dictionary<int, int>()

        for entry in ids do
            match Rune.TryGetRuneAt(entry.Key, 0) with
            | true, rune when rune.Utf16SequenceLength = entry.Key.Length -> points[rune.Value] <- entry.Value
            | _ -> ()

        points
