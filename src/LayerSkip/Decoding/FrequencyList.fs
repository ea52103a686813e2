namespace LayerSkip

open System

/// Lists of a vocabulary's ids, the most frequent first.
[<RequireQualifiedAccess>]
module FrequencyList =
    /// The first `count` ids: those of a tokenizer that was trained by merging the most frequent pairs come about in the order of
    /// their frequency.
    let firstIds (count: int) (vocabulary: int) : int[] = [| 0 .. min count vocabulary - 1 |]

    /// Every id that texts have, the most frequent first, of equally frequent ones the lowest.
    let count (texts: seq<int[]>) : int[] =
        texts
        |> Seq.concat
        |> Seq.countBy id
        |> Seq.sortBy (fun (id, count) -> -count, id)
        |> Seq.map fst
        |> Array.ofSeq

    /// Mi characters of a file that are read: more ids than any vocabulary has.
    let private most = 64

    let private separators = [| ' '; '\t'; ',' |]

    let private idsOf (vocabulary: int) (path: string) : int[] =
        let read (line: int) (word: string) =
            match Number.tryWhole word with
            | Some id when id >= 0 && id < vocabulary -> id
            | _ ->
                let shown = if word.Length > 20 then word[..19] + " .." else word
                let why =
                    $"line {line} has \"{shown}\"; ids of this model are whole numbers from 0 to {vocabulary - 1}"
                Check.throw (LayerSkipError.BadFile(path, why))

        let ids = [|
            for number, line in Seq.indexed ((TextFile.readAll most path).Split('\n')) do
                for word in line.Split(separators, StringSplitOptions.RemoveEmptyEntries) ->
                    read (number + 1) word
        |]

        if ids.Length = 0 then
            Check.throw (
                LayerSkipError.BadFile(path, "has no id; give ids with spaces, commas or lines between")
            )

        Array.distinct ids

    /// The ids of a text file, each once, in its order: whole numbers with spaces, commas or lines between. A word that is none,
    /// or no id of the vocabulary, is a BadFile with its line, as is a file without any.
    let load (vocabulary: int) (path: string) : Result<int[], LayerSkipError list> =
        Check.guard (fun () -> Ok(idsOf vocabulary path))
