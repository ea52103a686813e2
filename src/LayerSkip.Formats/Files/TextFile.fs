namespace LayerSkip

open System
open System.IO
open System.Text

/// The characters of a UTF-8 file, without its byte order mark, and with \n for \r\n. What is wrong with the file is thrown
/// as `LayerSkipException` when it is found, with the line that it stands on.
[<Sealed>]
type internal Utf8Reader(path: string, stream: Stream) =
    inherit TextReader()

    // Characters of a line, which must fit into a string several times over.
    static let longest = 1 <<< 28

    let bytes = Array.zeroCreate<byte>(1 <<< 16)
    // More than bytes: what was held back, and the end of a pair that began in the piece before.
    let characters = Array.zeroCreate<char>(bytes.Length + 2)
    let decoder = UTF8Encoding(false, true).GetDecoder()
    let mutable next = 0
    let mutable count = 0
    let mutable lines = 0L
    // A \r at the end of a piece is held back until it is known what follows.
    let mutable isHeld = false
    let mutable isStarted = false
    let mutable isOver = false

    let fail why = Check.throw (LayerSkipError.BadFile(path, why))

    let notUtf8 (e: DecoderFallbackException) =
        let before = max 0 e.Index
        let line = lines + int64 (bytes.AsSpan(0, before).Count '\n'B) + 1L
        fail $"is not UTF-8 text: byte 0x{e.BytesUnknown[0]:X2} in line {line}; convert it first"

    /// Drops each \r that a \n follows; how many characters are left of `length`.
    let withoutReturns (length: int) : int =
        let mutable kept = Array.IndexOf(characters, '\r', 0, length)

        if kept < 0 then
            length
        else
            for at in kept .. length - 1 do
                if not (characters[at] = '\r' && at + 1 < length && characters[at + 1] = '\n') then
                    characters[kept] <- characters[at]
                    kept <- kept + 1

            kept

    /// Reads more characters; false where there are none.
    let rec fill () : bool =
        if isOver then
            false
        else
            let found =
                try
                    stream.ReadAtLeast(Span bytes, (if isStarted then 1 else 4096), false)
                with e when (ReadFault.why e).IsSome ->
                    fail (ReadFault.why e).Value

            let head = ReadOnlySpan(bytes, 0, found)

            let first =
                if isStarted then
                    0
                else
                    isStarted <- true

                    match Utf8Text.notText head with
                    | Some why -> fail why
                    | None -> Utf8Text.markLength head

            isOver <- found = 0
            next <- 0

            let held = if isHeld then 1 else 0
            characters[0] <- '\r'

            try
                count <- held + decoder.GetChars(bytes, first, found - first, characters, held, isOver)
            with :? DecoderFallbackException as e ->
                notUtf8 e

            lines <- lines + int64 (head.Count '\n'B)
            isHeld <- not isOver && count > 0 && characters[count - 1] = '\r'
            count <- withoutReturns (if isHeld then count - 1 else count)
            count > 0 || fill ()

    let isThere () = next < count || fill ()

    override _.Peek() = if isThere () then int characters[next] else -1

    override this.Read() =
        let character = this.Peek()
        next <- next + (if character < 0 then 0 else 1)
        character

    override _.Read(buffer: char[], index: int, most: int) =
        if most > 0 && isThere () then
            let taken = min most (count - next)
            Array.Copy(characters, next, buffer, index, taken)
            next <- next + taken
            taken
        else
            0

    /// Without its end, which is \n or \r; null after the last line.
    override _.ReadLine() =
        if not (isThere ()) then
            null
        else
            let line = StringBuilder()
            let mutable isEnded = false

            while not isEnded && isThere () do
                let rest = ReadOnlySpan(characters, next, count - next)
                let length = rest.IndexOfAny('\r', '\n')
                let taken = if length < 0 then rest.Length else length
                line.Append(rest.Slice(0, taken)) |> ignore
                next <- next + taken

                if line.Length > longest then
                    fail $"has a line of more than {longest >>> 20} Mi characters; part it"

                if length >= 0 then
                    isEnded <- true
                    next <- next + 1

            line.ToString()

    override _.Dispose(disposing: bool) =
        if disposing then
            stream.Dispose()

        base.Dispose disposing

/// UTF-8 text files, read alike by everyone: a byte order mark is no text, \r\n is \n, and what is no UTF-8 text is named
/// as what it is. Faults are thrown as `LayerSkipException`.
[<RequireQualifiedAccess>]
module TextFile =
    /// Whether there is a file to read, before any work is done; `wanted` is what should be there.
    let check (wanted: string) (path: string) : LayerSkipError list =
        SourceFile.openOnce path $"give {wanted}" |> Result.map _.Dispose() |> Check.faults

    /// Opens a file, or a pipe that is open already, to be read once, from its beginning.
    let openRead (path: string) : TextReader =
        new Utf8Reader(path, SourceFile.openOnce path "give a UTF-8 text file" |> Check.getOrRaise)

    /// Its lines, of which the first is number 1, as they are asked for. A lone \r ends one too; the last needs no
    /// end. A line of more than 256 Mi characters is thrown as BadFile.
    let lines (path: string) : seq<struct (int * string)> =
        seq {
            use reader = openRead path
            let mutable number = 1
            let mutable line = reader.ReadLine()

            while not (isNull line) do
                struct (number, line)
                number <- number + 1
                line <- reader.ReadLine()
        }

    /// All of its text, of which there may be `most` Mi characters: a device has no end. More of them, and bytes that
    /// are no UTF-8, are thrown as BadFile; the latter with their line.
    let readAll (most: int) (path: string) : string =
        use reader = openRead path
        let text = StringBuilder()
        let buffer = Array.zeroCreate<char>(1 <<< 16)
        let mutable count = reader.Read(buffer, 0, buffer.Length)

        while count > 0 do
            text.Append(buffer, 0, count) |> ignore

            if text.Length > (most <<< 20) then
                let why = $"has more than {most} Mi characters, the most that are read; cut it"
                Check.throw (LayerSkipError.BadFile(path, why))

            count <- reader.Read(buffer, 0, buffer.Length)

        text.ToString()
