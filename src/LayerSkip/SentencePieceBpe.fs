namespace LayerSkip

open System
open System.Collections.Generic
open System.Text

/// The kinds of a SentencePiece model's pieces; GGUF numbers them alike.
[<RequireQualifiedAccess>]
module internal PieceType =
    let normal, unknown, control, userDefined, unused, ``byte`` = 1, 2, 3, 4, 5, 6

/// SentencePiece's BPE, which ranks pairs by the score of the piece they make.
[<RequireQualifiedAccess>]
module internal SentencePieceBpe =
    /// Builds the merges: every way of cutting a piece into two that are pieces or single characters.
    let build (pieces: string[]) (scores: float[]) (types: int[]) (byteFallback: bool) : Bpe =
        let ids = Dictionary<string, int> pieces.Length
        let all = Dictionary<string, int> pieces.Length
        // Control, unknown and byte pieces are never made from characters.
        let isText id =
            types[id] = PieceType.normal
            || types[id] = PieceType.userDefined
            || types[id] = PieceType.unused

        for id in 0 .. pieces.Length - 1 do
            all.TryAdd(pieces[id], id) |> ignore

            if pieces[id] <> "" && isText id then
                ids.TryAdd(pieces[id], id) |> ignore

        let ranks = Dictionary<float, int>()
        // Equal scores are equal ranks: the leftmost goes first.
        scores
        |> Array.distinct
        |> Array.sortDescending
        |> Array.iteri (fun rank score -> ranks[score] <- rank)

        let symbol (text: string) =
            match ids.TryGetValue text with
            | true, id -> ValueSome id
            | _ ->
                match Rune.TryGetRuneAt(text, 0) with
                | true, rune when rune.Utf16SequenceLength = text.Length -> ValueSome(-1 - rune.Value)
                | _ -> ValueNone

        let merges = Dictionary<int64, struct (int * int)>(3 * pieces.Length)

        for entry in ids do
            let piece, id = entry.Key, entry.Value

            for cut in 1 .. piece.Length - 1 do
                match symbol piece[.. cut - 1], symbol piece[cut..] with
                | ValueSome left, ValueSome right ->
                    merges[Pair.key left right] <- struct (ranks[scores[id]], id)
                | _ -> ()

        {
            Alphabet = Alphabet.CodePoints(TokenizerCore.codePoints ids)
            Merges = merges
            Words = None
            ByteFallback =
                if byteFallback then
                    TokenizerCore.byteFallback all
                else
                    None
            Unknown = Array.tryFindIndex (fun kind -> kind = PieceType.unknown) types
            FuseUnknown = true
        }

    /// Spaces as U+2581, and one more in front where the model adds a dummy prefix.
    let normalize (prefix: bool) (place: Place) (text: string) : string =
        if prefix && text <> "" && place <> Place.Continuing then
            "\u2581" + text.Replace(' ', '\u2581')
        else
            text.Replace(' ', '\u2581')
