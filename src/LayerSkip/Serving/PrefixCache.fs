namespace LayerSkip

open System

/// Caches of texts that have ended, the newest ones, for prompts that begin as they do: a turn of a conversation reads what is new in it. A cache
/// in use is nobody else's; any thread may call, one after the other.
[<Sealed>]
type PrefixCache(weights: Weights, texts: int, bytes: int64) =
    do
        if texts < 0 || bytes < 0L then
            invalidArg (nameof texts) $"{texts} texts of {bytes} bytes"

    // So few are read in less time than the memory of a copy is found.
    let worthCopying = 16

    let gate = obj ()
    let mutable held: ReadText list = []
    let mutable disposed = false

    let sum (held: ReadText list) = held |> List.sumBy ReadText.bytes

    let isBeginning (shorter: ReadText) (longer: ReadText) =
        (shorter.Watcher = "" || shorter.Watcher = longer.Watcher)
        && shorter.Ids.AsSpan().CommonPrefixLength(longer.Ids.AsSpan()) = shorter.Ids.Length
        && shorter.Cache.Late.Length <= longer.Cache.Late.Length

    /// Keeps the first ones that fit, the latest used first, and frees the others.
    let keepWithin (most: int64) =
        let fitting =
            Seq.zip held (held |> Seq.scan (fun size text -> size + ReadText.bytes text) 0L |> Seq.skip 1)
            |> Seq.truncate texts
            |> Seq.takeWhile (fun (_, size) -> size <= most)
            |> Seq.length

        let kept, gone = List.splitAt fitting held
        held <- kept
        List.iter ReadText.dispose gone

    let without (text: ReadText) = held |> List.filter (fun other -> not (obj.ReferenceEquals(other, text)))

    let usable (strategy: Strategy) (prompt: int[]) (text: ReadText) =
        ReadText.usable weights strategy (ReadOnlySpan prompt) text

    /// Where most of a text is shared it is taken; what only begins alike is another conversation's, and copied, as is what another way of
    /// drafting finds more in.
    let reuse (strategy: Strategy) (text: ReadText) (usable: int) : Cache option =
        if text.Ids.Length - usable <= usable / 8 && ReadText.isTakenWhole strategy text then
            held <- without text
            Some(ReadText.take strategy usable text)
        elif usable >= worthCopying then
            held <- text :: without text
            Some(ReadText.copy strategy usable text)
        else
            None

    /// A cache for a strategy that has read as much of a prompt as any that is held: for whoever returns it.
    member _.Take(strategy: Strategy, prompt: int[]) : Cache =
        lock gate (fun () ->
            ObjectDisposedException.ThrowIf(disposed, typeof<PrefixCache>)
            let usable = usable strategy prompt

            match held with
            | [] -> None
            | held ->
                let best = held |> List.maxBy (fun text -> usable text, ReadText.isTakenWhole strategy text)
                reuse strategy best (usable best)
            |> Option.defaultWith (fun () -> ReadText.empty weights.Config.Context weights strategy))

    /// How much of a prompt a text that is held has read.
    member _.Known(strategy: Strategy, prompt: int[]) : int =
        lock gate (fun () -> held |> Seq.map (usable strategy prompt) |> Seq.fold max 0)

    /// Holds a text from now on; the ones used longest ago go where there is no room.
    member _.Return(text: ReadText) : unit =
        lock gate (fun () ->
            if disposed || text.Ids.Length = 0 then
                ReadText.dispose text
            else
                let text = ReadText.compact text
                let covered, others = held |> List.partition (fun other -> isBeginning other text)
                List.iter ReadText.dispose covered
                held <- text :: others
                keepWithin bytes)

    /// Frees what is more than so many bytes.
    member _.Shrink(most: int64) : unit = lock gate (fun () -> keepWithin (min bytes most))

    /// The texts that it holds.
    member _.Count: int = lock gate (fun () -> held.Length)

    /// Bytes that they take.
    member _.Bytes: int64 = lock gate (fun () -> sum held)

    /// The most of either.
    member _.MostTexts = texts
    member _.MostBytes = bytes

    interface IDisposable with
        member _.Dispose() =
            lock gate (fun () ->
                disposed <- true
                List.iter ReadText.dispose held
                held <- [])
