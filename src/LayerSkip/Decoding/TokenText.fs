namespace LayerSkip

open System

/// The ids of a text, in order. Immutable; texts that grow from one another share an array, so that a token more is no
/// copy.
[<Sealed>]
type TokenText private (items: int[], count: int, used: int ref) =
    /// A text over the array, which must not change from now on.
    static member OfIds(ids: int[]) = TokenText(ids, ids.Length, ref ids.Length)

    member _.Count = count
    /// Of a text that is not empty.
    member _.Last = items[count - 1]
    /// The ids, without a copy.
    member _.Memory: ReadOnlyMemory<int> = ReadOnlyMemory(items, 0, count)
    member _.ToArray() : int[] = Array.sub items 0 count

    /// This text and tokens after it; this one stays as it is.
    member _.Append(tokens: int[]) : TokenText =
        let length = count + tokens.Length

        // What stands after this text was not written by another that grew from it.
        let items, used =
            if used.Value = count && length <= items.Length then
                items, used
            else
                let grown = Array.zeroCreate (max length (2 * count))
                Array.blit items 0 grown 0 count
                grown, ref count

        Array.blit tokens 0 items count tokens.Length
        used.Value <- length
        TokenText(items, length, used)
