namespace LayerSkip

open System
open System.IO
open System.Runtime.InteropServices

/// The entries of a text, or of a part of a long one.
[<Struct>]
type TextEntries = {
    /// Whether a text begins with them.
    Begins: bool
    Entries: int[]
    /// Which of its conversation's samples it is, from 1; 0 of any other text.
    Sample: int
}

/// Token ids on disk: text after text. An id that is read and not learned (a prompt's) stands as
/// its complement, a negative number.
///
/// Two forms: nanoGPT's `.bin`, uint16 ids and nothing else; and `.tokens`: "LSTOKEN1", int64 number of ids, int64
/// number of texts, int32 ids, int64 start of each text, all little-endian.
[<Sealed>]
type TokenFile internal (file: SourceFile, first: int64, size: int, count: int64, starts: int64[]) =
    /// As it was given, for messages.
    member _.Path = file.Path
    member _.Count = count

    /// Where each text starts; of a file that does not tell, one text.
    member _.Starts = starts

    /// Where a text ends, by its number.
    member _.EndOf(text: int) : int64 = if text + 1 < starts.Length then starts[text + 1] else count

    /// The entries of `count` ids from `start`.
    member _.Read(start: int64, length: int) : int[] =
        let bytes = Array.zeroCreate<byte>(length * size)
        file.Copy(first + start * int64 size, bytes.AsSpan())

        if size = 2 then
            Array.init length (fun i -> int (BitConverter.ToUInt16(bytes, 2 * i)))
        else
            Array.init length (fun i -> BitConverter.ToInt32(bytes, 4 * i))

    interface IDisposable with
        member _.Dispose() = (file :> IDisposable).Dispose()

/// Writes the `.tokens` form, which is whole once it is finished.
[<Sealed>]
type internal TokenWriter(file: Stream) =
    static let magic = "LSTOKEN1"B
    let starts = ResizeArray<int64>()
    let mutable count = 0L
    let mutable learned = 0L
    // Since the latest entries.
    let mutable begins = true

    let put (values: ReadOnlySpan<'T>) = file.Write(MemoryMarshal.AsBytes values)
    let head () = put (ReadOnlySpan [| count; int64 starts.Count |])

    do
        file.Write magic
        head ()

    /// The 8 bytes that the file begins with.
    static member Magic = magic
    member _.Count = count
    /// Texts so far.
    member _.Texts = starts.Count
    /// How many of the ids are not only read.
    member _.Learned = learned

    /// Appends entries to the text that is under way, or, where they begin one, to a new one; a part of nothing adds
    /// no text.
    member _.Add(part: TextEntries) : unit =
        begins <- begins || part.Begins

        if part.Entries.Length > 0 then
            if begins then
                starts.Add count

            begins <- false
            count <- count + int64 part.Entries.Length

            for entry in part.Entries do
                if entry >= 0 then
                    learned <- learned + 1L

            put (ReadOnlySpan part.Entries)

    /// Writes the starts of the texts, and the counts into the head: the stream must seek.
    member _.Finish() : unit =
        put (ReadOnlySpan(starts.ToArray()))
        file.Position <- int64 magic.Length
        head ()

/// Opening, reading and writing such files.
[<RequireQualifiedAccess>]
module TokenFile =
    let private headerSize = 24

    /// The id of an entry, and whether it is learned.
    let decode (entry: int) : struct (int * bool) =
        if entry < 0 then
            struct (~~~entry, false)
        else
            struct (entry, true)

    let private readInts64 (file: SourceFile) (start: int64) (count: int) =
        let bytes = Array.zeroCreate<byte>(8 * count)
        file.Copy(start, bytes.AsSpan())
        Array.init count (fun i -> BitConverter.ToInt64(bytes, 8 * i))

    let private ofTokens (file: SourceFile) : Result<TokenFile, LayerSkipError list> =
        let bad why = Check.bad file.Path why
        let mark = Array.zeroCreate<byte>(min headerSize (int (min file.Length 24L)))
        file.Copy(0L, mark.AsSpan())

        if mark.Length < headerSize || not (mark.AsSpan().StartsWith(ReadOnlySpan TokenWriter.Magic)) then
            bad "is no token file of ours; make one from text"
        else
            let numbers = readInts64 file 8L 2
            let count, texts = numbers[0], numbers[1]

            let most = file.Length / 4L

            if count = 0L && texts = 0L && file.Length = int64 headerSize then
                bad "holds no ids; there is nothing to learn from"
            elif
                count < 1L
                || count > most
                || texts < 1L
                || texts > min count (int64 Array.MaxLength)
                || file.Length <> int64 headerSize + 4L * count + 8L * texts
            then
                bad "is a damaged token file: its length is not what its head says; make it again from text"
            else
                let starts = readInts64 file (int64 headerSize + 4L * count) (int texts)

                if
                    starts[0] <> 0L
                    || starts[starts.Length - 1] >= count
                    || Seq.pairwise starts |> Seq.exists (fun (a, b) -> a >= b)
                then
                    bad "is a damaged token file: its texts are out of order; make it again from text"
                else
                    Ok(new TokenFile(file, int64 headerSize, 4, count, starts))

    let private ofBin (file: SourceFile) : Result<TokenFile, LayerSkipError list> =
        if file.Length % 2L <> 0L then
            Check.bad file.Path "has an odd number of bytes; a .bin file holds ids of two bytes each"
        else
            Ok(new TokenFile(file, 0L, 2, file.Length / 2L, [| 0L |]))

    /// Whether a file name says that it holds ids.
    let isTokens (path: string) : bool =
        path.EndsWith(".tokens", StringComparison.OrdinalIgnoreCase)
        || path.EndsWith(".bin", StringComparison.OrdinalIgnoreCase)

    /// Every id, in pieces that are soon let go.
    let private largest (tokens: TokenFile) : int =
        let piece = 1 <<< 20

        Seq.init (int ((tokens.Count + int64 piece - 1L) / int64 piece)) (fun i ->
            let start = int64 i * int64 piece

            tokens.Read(start, int (min (int64 piece) (tokens.Count - start)))
            |> Array.fold (fun most entry -> max most (if entry < 0 then ~~~entry else entry)) 0)
        |> Seq.max

    /// Opens a file of ids, each below `vocabulary`. Every id is looked at once; BadFile for one that is not below
    /// it, for an empty or a damaged file.
    let openRead (vocabulary: int) (path: string) : Result<TokenFile, LayerSkipError list> =
        let isBin = path.EndsWith(".bin", StringComparison.OrdinalIgnoreCase)

        let checkedIds (tokens: TokenFile) =
            match largest tokens with
            | id when id < vocabulary -> Ok tokens
            | id ->
                Check.bad
                    path
                    $"holds id {id}, which is outside the model's vocabulary of {vocabulary}; make it with the model's own tokenizer"

        SourceFile.openAs path "give a file of token ids, .tokens or .bin" (fun file ->
            (if isBin then ofBin else ofTokens) file |> Result.bind checkedIds)

    /// The entries from `first` to before `last`, in pieces that are soon let go.
    let parts (tokens: TokenFile) (first: int64) (last: int64) : seq<TextEntries> =
        let piece = 1L <<< 20

        seq {
            for text in 0 .. tokens.Starts.Length - 1 do
                let start = max first tokens.Starts[text]
                let stop = min last (tokens.EndOf text)

                for at in start..piece .. stop - 1L do
                    {
                        Begins = at = start
                        Entries = tokens.Read(at, int (min piece (stop - at)))
                        Sample = 0
                    }
        }

    /// Writes what `add` adds, whole or not at all; the writer, which has counted it.
    let internal writeParts
        (path: string)
        (add: TokenWriter -> unit)
        : Result<TokenWriter, LayerSkipError list> =
        let made = ref None

        AtomicFile.write path (fun file ->
            let writer = TokenWriter file
            add writer
            writer.Finish()
            made.Value <- Some writer)
        |> Result.map (fun () -> made.Value.Value)

    /// Writes texts of entries, whole or not at all; the number of ids and of texts.
    let write (path: string) (texts: seq<int[]>) : Result<struct (int64 * int), LayerSkipError list> =
        writeParts path (fun writer ->
            for text in texts do
                writer.Add { Begins = true; Entries = text; Sample = 0 })
        |> Result.map (fun writer -> struct (writer.Count, writer.Texts))
