namespace LayerSkip

open System.Text

/// A regular expression over bytes.
[<RequireQualifiedAccess>]
type internal ByteRegex =
    /// One byte of a range.
    | Bytes of first: byte * last: byte
    /// One after the other; of none, the empty text.
    | Sequence of ByteRegex list
    /// One of them; of none, no text at all.
    | Choice of ByteRegex list
    /// `most` below 0: without end.
    | Repeat of ByteRegex * least: int * most: int

/// Texts and sets of characters as bytes.
[<RequireQualifiedAccess>]
module internal ByteRegex =
    /// Just these bytes.
    let ofBytes (bytes: byte[]) : ByteRegex = ByteRegex.Sequence [ for b in bytes -> ByteRegex.Bytes(b, b) ]

    /// Just this text, in UTF-8.
    let literal (text: string) : ByteRegex = ofBytes (Encoding.UTF8.GetBytes text)

    /// The expression or nothing.
    let optional (regex: ByteRegex) : ByteRegex = ByteRegex.Repeat(regex, 0, 1)

    /// One of the ASCII characters of a text.
    let oneOf (characters: string) : ByteRegex =
        ByteRegex.Choice [ for c in characters -> ByteRegex.Bytes(byte c, byte c) ]

    // The last code points that UTF-8 writes with one, two and three bytes.
    let private lasts = [ 0x7F; 0x7FF; 0xFFFF ]

    let private encode (point: int) : byte[] = Encoding.UTF8.GetBytes((Rune point).ToString())

    // A range is cut until the bytes of its ends, place by place, are the bounds of what lies between.
    let rec private split (first: int) (last: int) : ByteRegex list =
        let cutAfter point = split first point @ split (point + 1) last

        match lasts |> List.tryFind (fun point -> first <= point && point < last) with
        | Some point -> cutAfter point
        | None ->
            let cut =
                [ 1 .. (encode first).Length - 1 ]
                |> List.tryPick (fun place ->
                    let low = (1 <<< (6 * place)) - 1

                    if (first ||| low) = (last ||| low) then None
                    elif first &&& low <> 0 then Some(first ||| low)
                    elif last &&& low <> low then Some((last &&& ~~~low) - 1)
                    else None)

            match cut with
            | Some point -> cutAfter point
            | None -> [
                Array.map2 (fun a b -> ByteRegex.Bytes(a, b)) (encode first) (encode last)
                |> List.ofArray
                |> ByteRegex.Sequence
              ]

    /// One character of a set (`CodeRanges`), in UTF-8.
    let utf8 (ranges: (int * int) list) : ByteRegex =
        ranges |> List.collect (fun (first, last) -> split first last) |> ByteRegex.Choice
